# A job one of whose ranks is killed while it computes ends within ten seconds, and says that it failed.
#   cmake -D launcher=mpirun -D count=-n -D program=test_mpi_errors -P ends.cmake
execute_process(
  COMMAND ${launcher} ${count} 3 ${program} die
  TIMEOUT 10 RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE errors
)
if(NOT said MATCHES "under way")
  message(FATAL_ERROR "the job did not begin:\n${errors}")
endif()
if(result EQUAL 0 OR result MATCHES "timeout")
  message(FATAL_ERROR "the job ended with: ${result}")
endif()
message(NOTICE "the job ended with: ${result}")
