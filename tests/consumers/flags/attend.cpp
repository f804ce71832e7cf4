// The unit that is compiled with each set of flags.
#include "attend.hpp"

#include <csq/attention.hpp>
#include <csq/attention_backward.hpp>
#include <csq/heads.hpp>

namespace {

template <class Mechanism>
void run(const Mechanism& mechanism, csq::Method method, const Sizes& sizes, const Inputs& in, const Outputs& out) {
  csq::Options options;
  options.causal = true;
  options.centering = csq::Centering::none;
  options.method = method;
  options.chunk = method == csq::Method::factored ? 16 : 0;
  options.threads = 1;
  const auto view = [](auto* data, int tokens, int dim) { return csq::Heads(data, {1, 1, tokens, dim}); };
  const auto q = view(in.query, sizes.queries, sizes.dim);
  const auto k = view(in.key, sizes.keys, sizes.dim);
  const auto v = view(in.value, sizes.keys, sizes.value_dim);
  const auto output = view(out.output, sizes.queries, sizes.value_dim);
  const auto normalizer = view(out.normalizer, sizes.queries, 1);
  csq::attention(mechanism, q, k, v, output, normalizer, options);

  csq::Gradients<float> gradients{view(out.query_gradient, sizes.queries, sizes.dim),
                                  view(out.key_gradient, sizes.keys, sizes.dim),
                                  view(out.value_gradient, sizes.keys, sizes.value_dim)};
  if constexpr (requires { mechanism.shift; }) gradients.shift = out.shift_gradient;
  csq::attention_backward(mechanism, q, k, v, csq::Heads<const float>(output), csq::Heads<const float>(normalizer),
                          view(in.output_gradient, sizes.queries, sizes.value_dim), gradients, options);
}

}  // namespace

void attend(Weight weight, const Sizes& sizes, const Inputs& in, const Outputs& out) {
  switch (weight) {
    case Weight::softmax:
      return run(csq::Softmax{}, csq::Method::direct, sizes, in, out);
    case Weight::csq_direct:
      return run(csq::Csq{}, csq::Method::direct, sizes, in, out);
    case Weight::csq_factored:
      return run(csq::Csq{}, csq::Method::factored, sizes, in, out);
  }
}
