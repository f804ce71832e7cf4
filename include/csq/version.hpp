// The only source of the version; CMake reads it from here.
#pragma once

#define CSQ_VERSION_MAJOR 0
#define CSQ_VERSION_MINOR 1
#define CSQ_VERSION_PATCH 0

namespace csq {

inline constexpr int version_major = CSQ_VERSION_MAJOR;
inline constexpr int version_minor = CSQ_VERSION_MINOR;
inline constexpr int version_patch = CSQ_VERSION_PATCH;

}  // namespace csq
