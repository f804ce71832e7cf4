# A compilation must fail with one sentence, and with no other error that drowns it; without a sentence it must succeed.
#
#   cmake -D sentence=TEXT -P check.cmake -- COMPILER ARGUMENT…
cmake_minimum_required(VERSION 3.21)

set(command "")
set(is_command FALSE)
foreach(index RANGE ${CMAKE_ARGC})
  if(is_command)
    list(APPEND command ${CMAKE_ARGV${index}})
  elseif("${CMAKE_ARGV${index}}" STREQUAL "--")
    set(is_command TRUE)
  endif()
endforeach()

execute_process(COMMAND ${command} RESULT_VARIABLE result ERROR_VARIABLE output)
string(REPLACE ";" "," output "${output}")
string(REPLACE "\n" ";" lines "${output}")
# What ends the compilation after an #error is no second reason.
list(FILTER lines EXCLUDE REGEX "fatal error: .*see the error above")
list(FILTER lines INCLUDE REGEX "error: ")
if(NOT sentence)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "should compile:\n${output}")
  endif()
  return()
endif()
list(LENGTH lines count)
string(FIND "${lines}" "${sentence}" at)
if(NOT count EQUAL 1 OR at EQUAL -1)
  message(FATAL_ERROR "should give '${sentence}' and no other error, gives ${count}:\n${output}")
endif()
