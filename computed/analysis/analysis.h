/* computed/analysis/analysis.h - what every kind of job says of an image. */
#pragma once
#include "common/base/rc.h"

#define ANALYSIS_SCORES_MAX 16
#define ANALYSIS_SLICES_MAX 2048u /* RECORD_SLICES_MAX of the gateway */

struct analysis_score {
    char name[32];
    double value;
};
struct analysis_result {
    char label[32];
    struct analysis_score score[ANALYSIS_SCORES_MAX];
    uint32_t score_n, tile_n; /* tile_n: of a slide, how many were scored; not sent on */
    /* of a series: how its slices were stacked */
    uint32_t slice_n;
    uint32_t by; /* enum series_by */
    uint16_t order[ANALYSIS_SLICES_MAX];
};
