# What the compiler's flags and pragmas make of csq: each set is right, by the plain loop of check.cpp, or refused with
# a sentence.   cmake -D compiler=… -D include_dir=… -D work_dir=… -D sets=portable,avx2 -P check.cmake
cmake_minimum_required(VERSION 3.21)

set(here ${CMAKE_CURRENT_LIST_DIR})
string(REPLACE "," ";" sets "${sets}")
# right|flags or refused|flags, for both compilers, then for one.
set(flag_sets
  "right|-O2"
  "right|-O0"
  "right|-O1"
  "right|-Os -funsigned-char -fshort-enums"
  "right|-O3 -march=native -ffp-contract=off"
  "right|-O2 -ffp-contract=fast -frounding-math"
  "right|-O2 -funsafe-math-optimizations"
  "right|-O3 -march=native -ffast-math -mrecip -fno-finite-math-only"
  "right|-O2 -fassociative-math -fno-signed-zeros -fno-trapping-math"
  "right|-O2 -freciprocal-math -fno-math-errno"
  "refused|-Ofast"
  "refused|-O2 -ffast-math"
  "refused|-O2 -ffinite-math-only"
)
set(gcc_flag_sets
  "right|-Ofast -fno-finite-math-only"
  "right|-O2 -fno-expensive-optimizations -fexcess-precision=fast"
  "right|-O2 -include ${here}/associative.hpp"
  "right|-O2 -include ${here}/ofast.hpp"
  "refused|-O2 -fsingle-precision-constant"
)
set(clang_flag_sets
  "right|-Ofast -fno-finite-math-only"
  "right|-O2 -fno-honor-nans"
  "right|-O2 -fno-honor-infinities"
  "right|-O2 -include ${here}/imprecise.hpp"
  "right|-O2 -include ${here}/reassociate.hpp"
)
execute_process(COMMAND ${compiler} --version OUTPUT_VARIABLE version)
if(version MATCHES "clang")
  list(APPEND flag_sets ${clang_flag_sets})
else()
  list(APPEND flag_sets ${gcc_flag_sets})
endif()

file(MAKE_DIRECTORY ${work_dir})
execute_process(
  COMMAND ${compiler} -std=c++20 -O1 -c ${here}/check.cpp -o ${work_dir}/check.o COMMAND_ERROR_IS_FATAL ANY
)
set(failures "")
# check_refusal(FLAGS MESSAGES): the first error of a compiler's messages is a sentence of csq's. Others may follow where
# no #error can tell.
function(check_refusal flags messages)
  if(NOT messages MATCHES "error: [^\n]*" OR NOT CMAKE_MATCH_0 MATCHES "csq needs ")
    set(failures "${failures}${flags}: not refused with a sentence:\n${messages}\n" PARENT_SCOPE)
  endif()
endfunction()

foreach(entry IN LISTS flag_sets)
  string(REGEX MATCH "^([a-z]+)\\|(.*)$" entry "${entry}")
  set(expected ${CMAKE_MATCH_1})
  set(flags "${CMAKE_MATCH_2}")
  message(NOTICE "${flags}")
  separate_arguments(arguments UNIX_COMMAND "${flags}")
  # Linked with the flags too: they may choose how the processor rounds.
  execute_process(
    COMMAND ${compiler} -std=c++20 ${arguments} -I ${include_dir} ${here}/attend.cpp ${work_dir}/check.o
            -o ${work_dir}/check
    RESULT_VARIABLE result ERROR_VARIABLE messages
  )
  if(expected STREQUAL "refused")
    check_refusal("${flags}" "${messages}")
    continue()
  endif()
  if(NOT result EQUAL 0)
    string(APPEND failures "${flags}: does not compile:\n${messages}\n")
    continue()
  endif()
  foreach(set IN LISTS sets)
    execute_process(
      COMMAND ${CMAKE_COMMAND} -E env CSQ_SIMD=${set} ${work_dir}/check RESULT_VARIABLE result OUTPUT_VARIABLE messages
    )
    if(NOT result EQUAL 0)
      string(APPEND failures "${flags}, ${set}:\n${messages}\n")
    endif()
  endforeach()
endforeach()

# 32-bit x86 without SSE's arithmetic, whose standard library may not be installed: the header that refuses alone.
execute_process(COMMAND ${compiler} -dumpmachine OUTPUT_VARIABLE machine)
if(machine MATCHES "^x86_64")
  execute_process(
    COMMAND ${compiler} -std=c++20 -m32 -mno-sse -I ${include_dir} -fsyntax-only
            -include csq/detail/base/requirements.hpp -x c++ /dev/null
    ERROR_VARIABLE messages
  )
  check_refusal("-m32" "${messages}")
endif()
if(failures)
  message(FATAL_ERROR "${compiler}\n${failures}")
endif()
