// Above the include of csq: everything that -Ofast allows.
#pragma GCC optimize("Ofast")
