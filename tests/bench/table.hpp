// A CSV as columns by name.
#pragma once

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "../catch.hpp"

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// A value a line.
inline std::vector<std::string> column(const std::string& csv, const std::string& name) {
  const std::vector<std::string> lines = split(csv, '\n');
  REQUIRE(!lines.empty());
  const std::vector<std::string> names = split(lines[0], ',');
  const auto found = std::find(names.begin(), names.end(), name);
  INFO("column " << name << " of " << lines[0]);
  REQUIRE(found != names.end());
  std::vector<std::string> values;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    std::vector<std::string> cells = split(lines[i], ',');
    cells.resize(names.size());
    values.push_back(cells[std::size_t(found - names.begin())]);
  }
  return values;
}

inline bool holds(const std::string& text, const std::string& piece) { return text.find(piece) != std::string::npos; }
