# Included by CMakeLists.txt under a sanitizer. The kernels are most of what every test program compiles, and instrumented
# they take minutes: so the tests that a sanitizer runs are one unit, which compiles them once.

if(CSQ_SANITIZE STREQUAL "thread")
  set(names backward_threads threads)
else()
  set(names
    agreement backward_errors backward_golden edge_cases errors golden kept_summary penalties workspace
  )
endif()

# Every test file is included in a namespace of its own, after the headers of all: these are then not included again.
set(includes "")
set(files "")
foreach(name IN LISTS names)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/test_${name}.cpp)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(STRINGS ${source} lines REGEX "^#include ")
  list(APPEND includes ${lines})
  string(APPEND files "namespace test_${name} {\n#include \"test_${name}.cpp\"\n}\n")
endforeach()
list(REMOVE_DUPLICATES includes)
list(JOIN includes "\n" includes)
file(CONFIGURE OUTPUT sanitized.cpp CONTENT "${includes}\n${files}" @ONLY)

csq_test_program(sanitized ${CMAKE_CURRENT_BINARY_DIR}/sanitized.cpp)
target_link_options(sanitized PRIVATE ${wrapped_malloc})
foreach(set IN ITEMS portable avx2 avx512)
  csq_add_test(sanitized.${set} unit sanitized)
  set_property(TEST sanitized.${set} APPEND PROPERTY ENVIRONMENT CSQ_SIMD=${set})
  if(NOT CSQ_CPU_${set})
    set_tests_properties(sanitized.${set} PROPERTIES DISABLED TRUE)
  endif()
endforeach()
