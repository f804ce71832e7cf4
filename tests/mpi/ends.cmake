# A job one of whose ranks is killed ends within ten seconds, and says that it failed.   cmake -D command=… -P ends.cmake
execute_process(COMMAND ${command} TIMEOUT 10 RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
if(result EQUAL 0 OR result MATCHES "timeout")
  message(FATAL_ERROR "the job ended with: ${result}")
endif()
message(NOTICE "the job ended with: ${result}")
