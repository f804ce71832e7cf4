// Built with -fno-exceptions: attention as ever, and then a call with keys of another size than the queries'.
#include <csq/csq.hpp>
#include <cstdio>

#ifdef __cpp_exceptions
#error "this is to be compiled with -fno-exceptions"
#endif

int main() {
  const csq::Matrix<double> queries = csq::Matrix<double>::Random(5, 4);
  csq::Matrix<double> out, normalizer, dq(5, 4), dk(5, 4), dv(5, 4);
  csq::attention(csq::Csq{}, queries, queries, queries, out, normalizer);
  csq::attention_backward(csq::Csq{}, csq::heads_of(queries), csq::heads_of(queries), csq::heads_of(queries),
                          csq::heads_of(out), csq::heads_of(normalizer), csq::heads_of(queries),
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)});
  std::printf("attention is there: %d\n", out.allFinite() && dq.allFinite());
  std::fflush(stdout);  // abort does not

  const csq::Matrix<double> keys = csq::Matrix<double>::Random(5, 3);
  csq::attention(csq::Csq{}, queries, keys, queries, out);
  std::printf("the error was passed over\n");
}
