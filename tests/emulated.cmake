# Included by CMakeLists.txt where programs are compiled for another processor and an emulator runs them: one program of
# all tests, an entry for every file of them. Each operation on numbers takes the emulator ten times as long or more.

list(REMOVE_ITEM names
  attend attend_arrays attend_outputs replace_files # start programs
  npy # of the examples, no kernel
  memory # the process's memory is mostly the emulator's
  matrix_kernels matrix_backward_kernels matrix_engines matrix_permission # of a unit that Arm does not have
  long_sequences # 200,000 tokens
  sixteen # golden cases and random calls once more, in two types; sixteen_kernels and sixteen_errors run
  resources allocation_failure workspace # count bytes and allocations, which are alike on every processor
  # Repeat calls for many numbers of threads, whose stores the emulator shows each other in this machine's order, not in
  # that of the other.
  threads backward_threads summary_threads executor
)
# Test cases that take half a minute to a minute and a half and are left out, for the same reasons: of threads, of many
# tokens, of the bytes of a state; and three whose sizes repeat what other cases do with smaller ones.
set(but "")
foreach(pattern IN ITEMS "*the same bits for*" "strong gates over *" "ten thousand damaged*"
        "keys with an offset*" "a scale-blind weight is right*" "few queries against many keys*")
  string(APPEND but "~\"${pattern}\"")
endforeach()

# Threads are emulated too.
set(csq_test_environment OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2)

csq_tests_together(emulated ${names})
target_compile_definitions(emulated PRIVATE CSQ_TEST_LESS)
# Compiling takes half as long as with -O2, which the quickstart has; and GCC then warns of what Eigen has initialised.
target_compile_options(emulated PRIVATE -O1 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
foreach(name IN LISTS names)
  if(name MATCHES "kernels$") # every set in one process
    csq_add_test(${name} unit emulated -\# "[\#test_${name}]")
    continue()
  endif()
  foreach(set IN LISTS csq_kernel_sets)
    # The portable kernels are those of other processors too, which run all tests: here, beside the tests of single
    # kernels, what is quick.
    if(set STREQUAL "portable" AND NOT name MATCHES "^(edge_cases|errors|simd)$")
      continue()
    endif()
    csq_add_test(${name}.${set} unit emulated -\# "[\#test_${name}]${but}")
    set_tests_properties(${name}.${set} PROPERTIES FAIL_REGULAR_EXPRESSION "No tests ran")
    if(name MATCHES "backward_g|agreement") # the longest start first
      set_tests_properties(${name}.${set} PROPERTIES COST 100)
    endif()
    set_property(TEST ${name}.${set} APPEND PROPERTY ENVIRONMENT CSQ_SIMD=${set})
  endforeach()
endforeach()
