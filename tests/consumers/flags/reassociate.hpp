// Above the include of csq: what loses the exponential, and no fused products.
#pragma clang fp reassociate(on) contract(off)
