#pragma once

#include "zmlx/decode_step.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"
#include "zmlx/moe_block.h"
#include "zmlx/runtime.h"
