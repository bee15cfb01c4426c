/* computed/worker/wire.h - what the daemon and its child say to each other over a socketpair:
 * frames of an 8-byte head {type u32, length u32}, little-endian, and a body.
 *
 * The child is not trusted once it has seen an image: the daemon checks every number it sends. */
#pragma once
#include "common/base/le.h"
#include "common/model/job_params.h"
#include "computed/analysis/analysis.h"

#define WIRE_HEAD_BYTES 8u
#define WIRE_READ_MAX   (1u << 20) /* bytes of one READ */
#define WIRE_UP_MAX     8192u      /* a frame from the child */
#define WIRE_FD         3          /* the child's end of the socketpair */
#define WIRE_MODEL_FD   4          /* the model's file, to read */

enum wire_type {
    /* to the child */
    WIRE_ITEM = 1, /* size u64, media type: an image to score */
    WIRE_DATA,     /* the bytes that READ asked for */
    WIRE_FAIL,     /* rc u32, message: they can't be had */
    WIRE_JOB,      /* first of all, once: struct job_params, see wire_job_encode() */
    WIRE_SERIES,   /* n u32, n x size u64: a series to score, one object a slice */
    /* from the child */
    WIRE_READY = 101, /* device text: the model is loaded and fits */
    WIRE_REFUSED,     /* rc u32, message: the model can't be used */
    WIRE_READ,        /* offset u64, n u32, slice u32 (0 of an image) */
    WIRE_RESULT,      /* label[32], n u32, n x {name[32], value f64 bits}; of a series also by u32,
                         n u32, n x u16: slices as stacked */
    WIRE_MASK,    /* before RESULT, in order: enum mask_kind u32, rank u32, 3 x side u32, all bytes
                     u32, offset u32, and the bytes from there */
    WIRE_ASIDE,   /* message: the image can't be analysed, and why */
    WIRE_TROUBLE, /* rc u32, message: not the image's fault */
};

#define WIRE_SCORE_BYTES 40u
#define WIRE_READ_BYTES  16u
#define WIRE_MASK_HEAD   28u
#define WIRE_JOB_MAX     (13u * 4 + (3 + 2 * JOB_CHANNELS_MAX) * 8)
#define WIRE_RESULT_MAX  (44u + ANALYSIS_SCORES_MAX * WIRE_SCORE_BYTES + 2 * ANALYSIS_SLICES_MAX)
#define WIRE_SERIES_MAX  (4u + 8u * ANALYSIS_SLICES_MAX)

/* buf: WIRE_RESULT_MAX. Returns the length. */
uint32_t wire_result_encode(const struct analysis_result *r, uint8_t *buf);
/* slice_n: of the series that was asked for, 0 for an image. RC_CORRUPT: not of this form; texts
 * are cut to printable ASCII, values must be finite, each slice must be there once. */
MUST_CHECK enum rc wire_result_decode(const uint8_t *p, uint32_t n, uint32_t slice_n,
                                      struct analysis_result *ret);
/* buf: WIRE_JOB_MAX. Numbers in the order of the struct, u32, and f64 bits. */
uint32_t wire_job_encode(const struct job_params *p, uint8_t *buf);
void wire_job_decode(const uint8_t *buf, struct job_params *ret); /* the daemon is trusted */
/* A message from the child for a log or a report: printable ASCII only, at most cap - 1 bytes. */
void wire_text(const uint8_t *p, uint32_t n, char *text, size_t cap);
