// Every mechanism beside the plain definition of its weight, written out here and nowhere shared with the library.
#pragma once

#include <cmath>
#include <csq/csq.hpp>
#include <functional>
#include <tuple>
#include <vector>

#include "reference.hpp"

template <class M>
struct NamedMechanism {
  using Mechanism = M;

  const char* name;
  M mechanism;
  reference::Weight weight;
  bool factored = true;  // has the factored method
  bool takes_scale = true;
  bool centred = false;  // by default
};

inline reference::Weight score_weight(std::function<reference::Real(reference::Real)> of_score,
                                      std::function<reference::Real(reference::Real)> magnitude = {}) {
  return {reference::Weight::Kind::of_score, std::move(of_score), std::move(magnitude)};
}

inline reference::Weight softmax_weight() { return {reference::Weight::Kind::exponential, {}, {}}; }
inline reference::Weight linear_weight() { return {reference::Weight::Kind::feature_product, {}, {}}; }

inline reference::Weight shifted_square(double shift) {
  return score_weight([shift](reference::Real s) { return (s + shift) * (s + shift); },
                      [shift](reference::Real s) { return (s + std::abs(shift)) * (s + std::abs(shift)); });
}

inline reference::Weight power_series(std::vector<double> coefficients) {
  const auto sum = [](const std::vector<double>& terms, reference::Real s) {
    reference::Real total = 0;
    for (std::size_t t = 0; t < terms.size(); ++t) total += terms[t] * std::pow(s, int(t));
    return total;
  };
  std::vector<double> absolute = coefficients;
  for (double& coefficient : absolute) coefficient = std::abs(coefficient);
  return score_weight([=](reference::Real s) { return sum(coefficients, s); },
                      [=](reference::Real s) { return sum(absolute, s); });
}

// r(s)² + floor with T_t(x) = cos(t·arccos x), continued by cosh outside [−1, 1].
inline reference::Weight chebyshev_square(std::vector<double> root, double radius, double floor) {
  return score_weight([root = std::move(root), radius, floor](reference::Real s) {
    const reference::Real x = s / radius;
    reference::Real sum = 0;
    for (std::size_t t = 0; t < root.size(); ++t) {
      reference::Real polynomial = std::abs(x) <= 1 ? std::cos(reference::Real(t) * std::acos(x))
                                                    : std::cosh(reference::Real(t) * std::acosh(std::abs(x)));
      if (x < -1 && t % 2 == 1) polynomial = -polynomial;
      sum += root[t] * polynomial;
    }
    return sum * sum + floor;
  });
}

inline auto every_mechanism() {
  const csq::Polynomial polynomial{{1, 1, 0.5, 0.1666, 0.0417}};  // positive everywhere
  const csq::PositivePolynomial positive{{2.28, 3.18, 1.38, 0.43, 0.1}, 4, 0.01};
  return std::tuple{
      NamedMechanism<csq::Softmax>{"softmax", {}, softmax_weight(), false},
      NamedMechanism<csq::Squared>{"squared", {}, shifted_square(0)},
      NamedMechanism<csq::ShiftedQuadratic>{"shifted", {}, shifted_square(1)},
      NamedMechanism<csq::ShiftedQuadratic>{"shifted by -0.5", {-0.5}, shifted_square(-0.5)},
      NamedMechanism<csq::Csq>{"csq", {}, shifted_square(1), true, true, true},
      NamedMechanism<csq::Csq>{"csq shifted by 2.5", {2.5}, shifted_square(2.5), true, true, true},
      NamedMechanism<csq::Taylor>{"taylor", {}, power_series({1, 1, 0.5})},
      NamedMechanism<csq::Quadratic>{"quadratic", {2, -1, 0.5}, power_series({2, -1, 0.5})},
      NamedMechanism<csq::Quadratic>{"constant", {3, 0, 0}, power_series({3})},
      NamedMechanism<csq::Linear>{"linear", {}, linear_weight(), true, false},
      NamedMechanism<csq::Polynomial>{"polynomial", polynomial, power_series(polynomial.coefficients), false},
      NamedMechanism<csq::PositivePolynomial>{"positive polynomial", positive,
                                              chebyshev_square(positive.root, positive.radius, positive.floor), false},
  };
}

// One for each engine: exponential, degree 2, degree 1.
inline auto typical_mechanisms() {
  return std::tuple{NamedMechanism<csq::Softmax>{"softmax", {}, softmax_weight(), false},
                    NamedMechanism<csq::Csq>{"csq", {}, shifted_square(1), true, true, true},
                    NamedMechanism<csq::Linear>{"linear", {}, linear_weight(), true, false}};
}

template <class Visit>
void for_typical_mechanisms(const Visit& visit) {
  std::apply([&](const auto&... named) { (visit(named), ...); }, typical_mechanisms());
}
// Under an emulator typical ones stand for all: golden cases and tests of single kernels have every weight there too.
template <class Visit>
void for_each_mechanism(const Visit& visit) {
#ifdef CSQ_TEST_LESS
  for_typical_mechanisms(visit);
#else
  std::apply([&](const auto&... named) { (visit(named), ...); }, every_mechanism());
#endif
}

// visit.template operator()<T>() for float and double.
template <class Visit>
void for_float_and_double(const Visit& visit) {
  visit.template operator()<float>();
  visit.template operator()<double>();
}

inline std::vector<csq::Method> methods(bool factored) {
  if (factored) return {csq::Method::direct, csq::Method::factored};
  return {csq::Method::direct};
}

inline const char* name_of(csq::Method method) {
  return method == csq::Method::direct ? "direct" : method == csq::Method::factored ? "factored" : "automatic";
}
