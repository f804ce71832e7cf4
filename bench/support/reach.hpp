// What the library is measured against: numbers with the value they should reach, as a table and as JSON.
#pragma once

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bench {

// A number and its bounds: at least `reach` (or at most, where `at_most`); NaN where there is none.
struct Reach {
  std::string section, name;
  double value = 0;
  double reach = std::nan("");
  double stretch = std::nan("");
  bool at_most = false;

  bool has_bound() const { return !std::isnan(reach); }
  bool meets(double bound) const { return at_most ? value <= bound : value >= bound; }
  const char* verdict() const {
    if (!has_bound()) return "";
    if (!meets(reach)) return "MISSED";
    return !std::isnan(stretch) && meets(stretch) ? "met, stretch too" : "met";
  }
};

inline void print_reach(const std::vector<Reach>& rows) {
  std::string section;
  for (const Reach& row : rows) {
    if (row.section != section) std::printf("\n%s\n", row.section.c_str());
    section = row.section;
    std::printf("  %-52s %9.3f", row.name.c_str(), row.value);
    if (row.has_bound()) std::printf("   %s %.3g", row.at_most ? "<=" : ">=", row.reach);
    if (!std::isnan(row.stretch)) std::printf(" (%.3g)", row.stretch);
    std::printf("   %s\n", row.verdict());
  }
  int missed = 0, bounded = 0;
  for (const Reach& row : rows) {
    bounded += row.has_bound();
    missed += row.has_bound() && !row.meets(row.reach);
  }
  std::printf("\n%d of %d bounds met\n", bounded - missed, bounded);
}

inline nlohmann::json json_of(const std::vector<Reach>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Reach& row : rows) {
    nlohmann::json entry = {{"section", row.section}, {"name", row.name}, {"value", row.value}};
    if (row.has_bound()) {
      entry[row.at_most ? "at_most" : "at_least"] = row.reach;
      entry["met"] = row.meets(row.reach);
    }
    list.push_back(entry);
  }
  return list;
}

}  // namespace bench
