#pragma once

#include "zmlx/autotune.h"
#include "zmlx/decode_step.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"
#include "zmlx/kernel.h"
#include "zmlx/moe_block.h"
#include "zmlx/runtime.h"
