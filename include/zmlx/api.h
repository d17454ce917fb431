#pragma once

/// Marks what libzmlx exports; everything else is built with hidden visibility.
#define ZMLX_API __attribute__((visibility("default")))
