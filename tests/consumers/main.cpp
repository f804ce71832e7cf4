// A program that uses csq from outside. Weights sum to one, so values that are all alike come out as they went in.
//
//   consumer threads   checks that the program was built with OpenMP
//   consumer serial    that it was not, and that csq's target added no flag at all
#include <csq/csq.hpp>
#include <iostream>
#include <string_view>

#ifdef _OPENMP
constexpr std::string_view built_for = "threads";
#else
constexpr std::string_view built_for = "serial";
#endif
constexpr std::string_view flags_from_csq = FLAGS_FROM_CSQ;

int main(int argc, char** argv) {
  const csq::Matrix<float> queries = csq::Matrix<float>::Random(70, 16);
  const csq::Matrix<float> keys = csq::Matrix<float>::Random(90, 16);
  const csq::Matrix<float> values = csq::Matrix<float>::Constant(90, 8, 2.0f);
  const csq::Matrix<float> out = csq::attention(csq::Csq{}, queries, keys, values);

  const float error = (out.array() - 2.0f).abs().maxCoeff();
  std::cout << csq::build_info() << ", built for " << built_for << ", flags from csq: '" << flags_from_csq
            << "', error " << error << '\n';
  if (argc != 2 || argv[1] != built_for) return 1;
  const bool flags_as_promised =
      built_for == "threads" || flags_from_csq.find_first_not_of(" ;") == std::string_view::npos;
  return flags_as_promised && out.rows() == 70 && out.cols() == 8 && error < 1e-5f ? 0 : 1;
}
