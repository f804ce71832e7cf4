// The soft penalties: training losses, never part of the forward. Options are attention's (method and chunk have no
// meaning here); Centering::automatic centres as Csq does; results do not depend on threads.
#pragma once

#include "csq/bound_penalty.hpp"
#include "csq/rank_penalty.hpp"
#include "csq/sampled_bound_penalty.hpp"
