# Installs csq where nothing is left of an earlier run.   cmake -D build_dir=FOLDER -D prefix=FOLDER -P install.cmake
cmake_minimum_required(VERSION 3.21)

file(REMOVE_RECURSE ${prefix})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${build_dir} --prefix ${prefix} COMMAND_ERROR_IS_FATAL ANY)
