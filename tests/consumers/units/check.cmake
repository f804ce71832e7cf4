# Two units of one program, built with different flags or against different versions of csq, exchange nothing and must not
# meet: each pair is linked in both orders and run.   cmake -D compiler= -D include_dir= -D eigen_dir= -D work_dir= …
cmake_minimum_required(VERSION 3.21)

file(MAKE_DIRECTORY ${work_dir})
set(source_dir ${CMAKE_CURRENT_LIST_DIR})
set(plain -O2)

# compile(OBJECT NAME INCLUDE_DIR FLAG…)
function(compile object name include)
  execute_process(
    COMMAND ${compiler} -std=c++20 -I ${include} -isystem ${eigen_dir} -DUNIT=${name} ${ARGN}
            -c ${source_dir}/unit.cpp -o ${work_dir}/${object}
    COMMAND_ERROR_IS_FATAL ANY
  )
endfunction()

# run_both(LINK_FLAGS FIRST SECOND COMMAND…): links the two objects in either order; COMMAND ends with main's arguments.
function(run_both link first second)
  foreach(order IN ITEMS "${first};${second}" "${second};${first}")
    list(TRANSFORM order PREPEND ${work_dir}/ OUTPUT_VARIABLE objects)
    execute_process(
      COMMAND ${compiler} ${objects} ${work_dir}/main.o ${link} -o ${work_dir}/program
      COMMAND_ERROR_IS_FATAL ANY
    )
    list(TRANSFORM ARGN REPLACE "^PROGRAM$" ${work_dir}/program OUTPUT_VARIABLE command)
    execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT result EQUAL 0)
      message(FATAL_ERROR "${order}: ${command} ended with ${result}\n${output}")
    endif()
    message(NOTICE "${order}: ${output}")
  endforeach()
endfunction()

execute_process(
  COMMAND ${compiler} -std=c++20 -O2 -c ${source_dir}/main.cpp -o ${work_dir}/main.o COMMAND_ERROR_IS_FATAL ANY
)
compile(plain.o first ${include_dir} ${plain})

# Instructions: whatever this processor has.
compile(native.o second ${include_dir} ${plain} -march=native)
run_both("" plain.o native.o PROGRAM)

# With and without OpenMP.
if(has_openmp)
  compile(threads.o second ${include_dir} ${plain} -fopenmp)
  run_both(-fopenmp plain.o threads.o PROGRAM "one thread" OpenMP)
endif()

# Without optimisation, and with its strictest checks.
compile(debug.o second ${include_dir} -O0 -D_GLIBCXX_ASSERTIONS)
run_both("" plain.o debug.o PROGRAM)

# Another version, in which something stands before everything else in what is passed about.
file(REMOVE_RECURSE ${work_dir}/other)
file(COPY ${include_dir}/csq DESTINATION ${work_dir}/other)
foreach(edit IN ITEMS
  "detail/base/abi.hpp|(#define CSQ_VERSION_PATCH )[0-9]+|\\199"
  "detail/call/problem.hpp|(struct Problem {)|\\1 double another[9] = {}\;"
  "options.hpp|(struct Options {)|\\1 double another[9] = {}\;"
)
  string(REPLACE "|" ";" edit "${edit}")
  list(GET edit 0 file)
  list(GET edit 1 pattern)
  list(GET edit 2 replacement)
  file(READ ${work_dir}/other/csq/${file} text)
  string(REGEX REPLACE "${pattern}" "${replacement}" changed "${text}")
  if(changed STREQUAL text)
    message(FATAL_ERROR "${file} has nothing like ${pattern}")
  endif()
  file(WRITE ${work_dir}/other/csq/${file} "${changed}")
endforeach()
compile(other.o second ${work_dir}/other ${plain} -Wno-missing-field-initializers)
run_both("" plain.o other.o PROGRAM)

# On a processor without AVX, beside a unit that has it and is not called.
if(processor MATCHES "x86_64|AMD64")
  compile(v3.o second ${include_dir} ${plain} -march=x86-64-v3)
  find_program(qemu qemu-x86_64)
  if(qemu)
    run_both("" plain.o v3.o ${qemu} -cpu Nehalem PROGRAM portable - only)
  else()
    message(NOTICE "qemu-x86_64 (qemu-user) not found: not run on an old processor")
  endif()
endif()

# Nothing that computes may carry the version alone. Without optimisation nothing is inlined that need not be.
execute_process(COMMAND nm -C ${work_dir}/debug.o OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*csq::v[0-9]+_[0-9]+_[0-9]+::[^\n]*" symbols "${symbols}")
list(FILTER symbols EXCLUDE REGEX "csq::v[0-9_]+::(gcc|clang)[0-9]+_")
list(FILTER symbols EXCLUDE REGEX " [WVu] (std|Eigen|void std|bool std|__gnu)")
# The compiler's own members of aggregates, which may not declare any.
list(FILTER symbols EXCLUDE REGEX
  "::(Head|Gradients|Sizes|Options|History|Shape|Polynomial|PositivePolynomial|CrossoverModel|BoundPenalty)(<[a-z ]*>)?::~?[A-Z][A-Za-z]*[(]")
if(symbols)
  list(JOIN symbols "\n" symbols)
  message(FATAL_ERROR "symbols that all configurations share:\n${symbols}")
endif()
