// Above the include of csq: clang's word for -ffast-math.
#pragma float_control(precise, off)
