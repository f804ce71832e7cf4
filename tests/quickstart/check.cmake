# The README's promise: its program is examples/quickstart.cpp to the letter, it compiles with the README's one line, and
# prints what the README says it prints. It should compile in under 4 seconds. It does not at
# present: with the engine for heads of a few tokens, rows that are served again and the checks of overlap it takes 7
# times what Eigen's header takes alone (GCC 12; 5 times before they came). This test holds it there, until it is lighter.
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

# Compiles one file into `output` and sets `result` to the milliseconds that it took.
function(time_compiler result output)
  string(TIMESTAMP start "%s%f")
  execute_process(
    COMMAND ${compiler} -std=c++20 -O2 -I include -I ${eigen_dir} ${ARGN} -o ${output}
    WORKING_DIRECTORY ${project_dir}
    COMMAND_ERROR_IS_FATAL ANY
  )
  string(TIMESTAMP stop "%s%f")
  math(EXPR milliseconds "(${stop} - ${start}) / 1000")
  set(${result} ${milliseconds} PARENT_SCOPE)
endfunction()

file(WRITE ${work_dir}/eigen.cpp "#include <Eigen/Core>\n")
# The best of three: a busy moment of the machine is not the headers' fault.
set(is_quick FALSE)
foreach(attempt RANGE 1 3)
  time_compiler(eigen_time ${work_dir}/eigen.o -c ${work_dir}/eigen.cpp)
  time_compiler(quickstart_time ${program} examples/quickstart.cpp)
  message(NOTICE "compiled in ${quickstart_time} ms; Eigen's header alone takes ${eigen_time} ms")
  # It should be 4 s, and no more than version 0.1 took. It is 1.7 times that, 8 to 9.2 times Eigen's header (Zen 5):
  # this keeps it from growing further.
  math(EXPR slack_time "${eigen_time} * 100 / 10")
  if(quickstart_time LESS_EQUAL 4000 OR quickstart_time LESS_EQUAL slack_time)
    set(is_quick TRUE)
    break()
  endif()
endforeach()
if(NOT is_quick)
  message(FATAL_ERROR "examples/quickstart.cpp is too slow to compile")
endif()

separate_arguments(emulator UNIX_COMMAND "${emulator}")
execute_process(COMMAND ${emulator} ${program} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
message(NOTICE "${output}")

file(READ ${project_dir}/examples/quickstart.cpp source)
file(READ ${project_dir}/README.md readme)
check_block("${source}" "examples/quickstart.cpp" cpp)
check_block("${output}" "the quickstart's output" text "")
