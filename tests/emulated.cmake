# Included by CMakeLists.txt where programs are compiled for another processor and an emulator runs them: one program of
# all tests, an entry for every file of them. Each operation on numbers takes the emulator ten times as long or more.

set(names)
foreach(source IN LISTS sources)
  cmake_path(GET source STEM name)
  string(REGEX REPLACE "^test_" "" name ${name})
  list(APPEND names ${name})
endforeach()
list(REMOVE_ITEM names
  attend attend_arrays attend_outputs replace_files # start programs
  npy # of the examples, no kernel
  memory # the process's memory is mostly the emulator's
  matrix_kernels matrix_backward_kernels matrix_engines matrix_permission # of a unit that Arm does not have
  long_sequences # 200,000 tokens
  resources allocation_failure # repeat a call for each of its allocations
  # Repeat calls for many numbers of threads, whose stores the emulator shows each other in this machine's order, not in
  # that of the other: summary_threads does so, and is quick.
  threads backward_threads
)
# The test cases that are left out beside them: of threads again, and one of 10,000 tokens.
set(but "~\"the same bits for any number of threads*\"~\"strong gates over *\"")

csq_tests_together(emulated ${names})
target_compile_definitions(emulated PRIVATE CSQ_FEW_MECHANISMS)
foreach(name IN LISTS names)
  if(name MATCHES "kernels$") # every set in one process
    csq_add_test(${name} unit emulated -\# "[\#test_${name}]")
    continue()
  endif()
  foreach(set IN LISTS csq_kernel_sets)
    # The portable kernels are those of other processors too, which run all tests: here as much as is quick.
    if(set STREQUAL "portable" AND NOT name MATCHES "^((backward_)?golden|edge_cases|simd)$")
      continue()
    endif()
    csq_add_test(${name}.${set} unit emulated -\# "[\#test_${name}]${but}")
    set_property(TEST ${name}.${set} APPEND PROPERTY ENVIRONMENT CSQ_SIMD=${set})
  endforeach()
endforeach()
