# The program of every consumer, for the target of csq that CONSUMER_TARGET names. It is told what that target adds to the
# flags of a program.
set(CONSUMER_TARGET csq::csq CACHE STRING "csq::csq or csq::threads")

add_executable(consumer ${CMAKE_CURRENT_LIST_DIR}/main.cpp)
target_link_libraries(consumer PRIVATE ${CONSUMER_TARGET})
set(added "")
foreach(property IN ITEMS COMPILE_OPTIONS COMPILE_DEFINITIONS LINK_OPTIONS)
  list(APPEND added $<TARGET_PROPERTY:${CONSUMER_TARGET},INTERFACE_${property}>)
endforeach()
target_compile_definitions(consumer PRIVATE "FLAGS_FROM_CSQ=\"$<JOIN:${added}, >\"")

set(CMAKE_INSTALL_PREFIX ${CMAKE_BINARY_DIR}/prefix)
file(REMOVE_RECURSE ${CMAKE_INSTALL_PREFIX}) # what an earlier run of the test put there
install(TARGETS consumer)
