// Everything csq offers.
#pragma once

#include "csq/attention.hpp"
#include "csq/attention_backward.hpp"
#include "csq/check.hpp"
#include "csq/cost_model.hpp"
#include "csq/kept_summary.hpp"
#include "csq/mechanism.hpp"
#include "csq/options.hpp"
#include "csq/parallel.hpp"
#include "csq/penalties.hpp"
#include "csq/tensor.hpp"
#include "csq/version.hpp"
#include "csq/workspace.hpp"
