# Included by CMakeLists.txt under a sanitizer. The kernels are most of what every test program compiles, and instrumented
# they take minutes: so the tests that a sanitizer runs are two units instead of one each.

if(CSQ_SANITIZE STREQUAL "thread")
  # Not the tests that replace operator new (allocations.hpp): ThreadSanitizer of clang 14 links its own whatever happens.
  set(names backward_threads executor many_heads summary_threads threads)
else()
  set(names
    agreement allocation_failure backward_errors backward_golden backward_kernels edge_cases errors golden kept_summary
    kernels packed partials penalties sixteen sixteen_errors sixteen_kernels stream summary summary_threads
    user_mechanism workspace adjustments
  )
endif()

csq_tests_together(sanitized ${names})
if(CSQ_SANITIZE STREQUAL "thread")
  # Small shapes would run on one thread.
  target_compile_definitions(sanitized PRIVATE CSQ_MULTIPLY_ADDS_PER_THREAD=1.0)
endif()
# Threads are the same whatever the set.
set(sets ${csq_kernel_sets})
# One is timed; the golden cases in two more types take as long as all others.
set(but "~\"many short heads take no longer*\"~\"sixteen: golden*\"")
if(CSQ_SANITIZE STREQUAL "thread")
  set(sets portable)
endif()
list(REMOVE_ITEM sets avx512_amx) # assembly, which a sanitizer does not see; the rest is avx512's
foreach(set IN LISTS sets)
  csq_add_test(sanitized.${set} unit sanitized ${but})
  set_tests_properties(sanitized.${set} PROPERTIES TIMEOUT 1800) # 11 minutes on a slow machine that was busy
  set_property(TEST sanitized.${set} APPEND PROPERTY ENVIRONMENT CSQ_SIMD=${set})
  if(NOT CSQ_CPU_${set})
    set_tests_properties(sanitized.${set} PROPERTIES DISABLED TRUE)
  endif()
endforeach()

# --- fuzz ---

if(CSQ_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  csq_program(fuzz_attention fuzz/attention.cpp)
  target_compile_options(fuzz_attention PRIVATE -fsanitize=fuzzer)
  target_link_options(fuzz_attention PRIVATE -fsanitize=fuzzer)
  foreach(set IN LISTS csq_kernel_sets)
    set(corpus ${CMAKE_CURRENT_BINARY_DIR}/corpus.${set}) # what it finds interesting goes here, failures beside it
    file(MAKE_DIRECTORY ${corpus})
    csq_add_test(fuzz.${set} fuzz fuzz_attention
      -max_total_time=20 -timeout=60 -artifact_prefix=${corpus}. ${corpus} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/seeds
    )
    set_property(TEST fuzz.${set} APPEND PROPERTY ENVIRONMENT CSQ_SIMD=${set})
    if(NOT CSQ_CPU_${set})
      set_tests_properties(fuzz.${set} PROPERTIES DISABLED TRUE)
    endif()
  endforeach()
endif()
