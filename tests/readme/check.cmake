# The README's C++ snippets compile: those without a main as functions behind preamble.hpp; those of csq::mpi where MPI's
# include folders are given.
#   cmake -D compiler=g++ -D project_dir=. -D eigen_dir=/usr/include/eigen3 -D work_dir=build/readme [-D mpi_dirs=…] -P check.cmake
cmake_minimum_required(VERSION 3.21)

file(READ ${project_dir}/README.md rest)
set(fence "\n```")
set(program "#include \"${CMAKE_CURRENT_LIST_DIR}/preamble.hpp\"\n")
set(mpi_flags "")
foreach(dir IN LISTS mpi_dirs)
  list(APPEND mpi_flags -isystem ${dir})
endforeach()
if(mpi_flags)
  string(APPEND program "#include <csq/mpi.hpp>\n")
endif()
set(snippets 0)
while(TRUE)
  string(FIND "${rest}" "${fence}cpp\n" start)
  if(start EQUAL -1)
    break()
  endif()
  math(EXPR start "${start} + 8")
  string(SUBSTRING "${rest}" ${start} -1 rest)
  string(FIND "${rest}" "${fence}" end)
  string(SUBSTRING "${rest}" 0 ${end} snippet)
  string(SUBSTRING "${rest}" ${end} -1 rest)
  string(SUBSTRING "${rest}" 4 -1 rest) # behind the closing fence
  if(snippet MATCHES "csq::mpi::" AND NOT mpi_flags)
    continue()
  endif()
  if(NOT snippet MATCHES "int main\\(") # a whole program has a test of its own
    math(EXPR snippets "${snippets} + 1")
    string(APPEND program "void snippet_${snippets}() {\n${snippet}\n}\n")
  endif()
endwhile()
if(snippets EQUAL 0)
  message(FATAL_ERROR "README.md has no C++ snippet")
endif()

file(WRITE ${work_dir}/snippets.cpp "${program}")
execute_process(
  COMMAND ${compiler} -std=c++20 -O0 -Wall -Wextra -Werror -Wno-unused-variable -I ${project_dir}/include
          -isystem ${eigen_dir} ${mpi_flags} -c ${work_dir}/snippets.cpp -o ${work_dir}/snippets.o
  COMMAND_ERROR_IS_FATAL ANY
)
message(NOTICE "${snippets} snippets compiled")
