# Without exceptions an error is its sentence on standard error and an abort.   cmake -D program=FILE -P check.cmake
cmake_minimum_required(VERSION 3.21)

execute_process(COMMAND ${program} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE error)
if(NOT output STREQUAL "attention is there: 1\n" OR NOT error STREQUAL "csq: k: dim is 3 but q has 4\n" OR
   NOT result MATCHES "abort|ABRT")
  message(FATAL_ERROR "result: ${result}\noutput: ${output}error: ${error}")
endif()
