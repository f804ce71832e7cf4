# The README's promise: its program is examples/quickstart.cpp to the letter, it compiles with the README's one line, and
# prints what the README says it prints.
cmake_minimum_required(VERSION 3.21)

# Checks that the README has TEXT as a fenced block of one of the given languages.
function(check_block text what)
  foreach(language IN LISTS ARGN)
    string(FIND "${readme}" "\n```${language}\n${text}```\n" at)
    if(NOT at EQUAL -1)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "README.md does not show ${what}, which is:\n${text}")
endfunction()

file(MAKE_DIRECTORY ${work_dir})
set(program ${work_dir}/quickstart)

string(TIMESTAMP start "%s%f")
execute_process(
  COMMAND ${compiler} -std=c++20 -O2 -I include -I ${eigen_dir} examples/quickstart.cpp -o ${program}
  WORKING_DIRECTORY ${project_dir}
  COMMAND_ERROR_IS_FATAL ANY
)
string(TIMESTAMP stop "%s%f")
math(EXPR milliseconds "(${stop} - ${start}) / 1000")
message(NOTICE "compiled in ${milliseconds} ms")

execute_process(COMMAND ${program} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
message(NOTICE "${output}")

file(READ ${project_dir}/examples/quickstart.cpp source)
file(READ ${project_dir}/README.md readme)
check_block("${source}" "examples/quickstart.cpp" cpp)
check_block("${output}" "the quickstart's output" text "")
