// Catch2 2 wants its main compiled once; Catch2 3 links one (Catch2::Catch2WithMain).
#if !__has_include(<catch2/catch_test_macros.hpp>)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
