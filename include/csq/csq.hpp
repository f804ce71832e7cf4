// Everything csq offers.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before everything else.
#include "csq/attention.hpp"
#include "csq/attention_backward.hpp"
#include "csq/cost_model.hpp"
#include "csq/eigen.hpp"
#include "csq/executor.hpp"
#include "csq/heads.hpp"
#include "csq/kept_summary.hpp"
#include "csq/mechanism.hpp"
#include "csq/options.hpp"
#include "csq/partials.hpp"
#include "csq/penalties.hpp"
#include "csq/shape.hpp"
#include "csq/stream.hpp"
#include "csq/summary.hpp"
#include "csq/version.hpp"
#include "csq/workspace.hpp"
