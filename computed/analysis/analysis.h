/* computed/analysis/analysis.h - what every kind of job says of an image. */
#pragma once
#include "common/base/rc.h"

#define ANALYSIS_SCORES_MAX 16

struct analysis_score {
    char name[32];
    double value;
};
struct analysis_result {
    char label[32];
    struct analysis_score score[ANALYSIS_SCORES_MAX];
    uint32_t score_n, tile_n; /* tile_n: of a slide, how many were scored; not sent on */
};
