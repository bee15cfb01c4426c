/* common/image/image.h - what an object's bytes are, what of it is indexed, and its pixels.
 *
 * Bytes come from a ranged source, so that a slide of 4 GB is never in memory: a reader asks for
 * the ranges that one tile needs. All calls block; they belong to worker threads, later to the
 * sandbox: no network, no libuv, no log. One image belongs to one thread at a time; different
 * images may be read at once.
 *
 * The bytes are a stranger's. Whatever they hold, a call ends with a code and a reason, and the
 * memory taken for one image stays below limits.memory_bytes_max:
 *   RC_CORRUPT  the content contradicts itself, its format, or ends early
 *   RC_UNIMPL   sound as far as it was read, but not decoded here; the message names the media
 * type, transfer syntax or compression RC_BUSY     larger than the limits given; the message has
 * both numbers RC_NOMEM    no memory;  RC_RANGE, RC_INVAL: the caller's level, frame or rectangle
 *   any code of source.read, with its message
 * Messages hold sizes, UIDs and tags, never attribute values of a patient nor pixel data. */
#pragma once
#include "common/base/rc.h"

/* Ranged bytes. read fills buf with exactly n bytes from off or fails; off + n <= size always. */
struct image_source {
    void *ctx;
    uint64_t size;
    enum rc (*read)(void *ctx, uint64_t off, void *buf, size_t n, struct err *reterr);
};

/* Over memory; borrows p. */
struct image_source_mem {
    const uint8_t *p;
    size_t n;
};
void image_source_mem_init(struct image_source_mem *m, const void *p, size_t n,
                           struct image_source *ret_src);
/* Over a file, pread. RC_NOTFOUND, RC_IO, ... Close with image_source_file_close. */
MUST_CHECK enum rc image_source_file_open(const char *path, struct image_source *ret_src,
                                          struct err *reterr);
void image_source_file_close(struct image_source *src);

/* Loads what the codecs need from disk (the DICOM dictionary) and registers them; idempotent and
 * thread-safe. image_open calls it; a sandbox calls it before it locks itself in. */
void image_init(void);

/* ---- what is it ---- */

#define IMAGE_SNIFF_BYTES 1024
/* Media type of content that begins with head (give IMAGE_SNIFF_BYTES or all there is):
 * image/jpeg image/png image/tiff (SVS, NDPI, OME, BigTIFF too) application/dicom (with or without
 * preamble) image/jp2 image/jls image/gif image/bmp image/webp video/mp4 video/x-msvideo
 * application/pdf application/json application/zip application/gzip text/plain
 * application/octet-stream. Static text. */
const char *image_sniff(const uint8_t *head, size_t n);
MUST_CHECK enum rc image_sniff_source(const struct image_source *src, const char **ret_type,
                                      struct err *reterr);

/* ---- the index ---- */

/* One attribute: both texts are borrowed until return. Not RC_OK stops and is returned. */
typedef enum rc (*image_attribute_cb)(void *data, const char *name, const char *value);
/* Attributes for the query index, read from headers only:
 *   image.kind    image | slide | multiframe | video | document | unknown
 *   image.width, image.height (first level), image.frames, image.levels: decimal
 *   dicom.StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID TransferSyntaxUID Modality
 *   BodyPartExamined PhotometricInterpretation Rows Columns NumberOfFrames BitsAllocated BitsStored
 *   SamplesPerPixel PixelSpacing SliceThickness Laterality
 * Never a patient's, physician's or institution's attribute, no date or time, no free text. A
 * value that its DICOM type does not allow (letters in a UID, lower case in a code) is left out:
 * it could be a name in the wrong place.
 * Content that is no image or is broken gives image.kind alone and RC_OK: indexing never refuses an
 * object. Fails only with the source's error or cb's. */
MUST_CHECK enum rc image_attributes(const struct image_source *src, image_attribute_cb cb,
                                    void *data, struct err *reterr);

struct image_dicom_ids { /* "" when absent */
    char study[65], series[65], sop[65], sop_class[65];
};
/* To group files into cases. RC_NOTFOUND when it is not DICOM; RC_CORRUPT when it breaks off before
 * the study's UID; a DICOMDIR has an empty study. */
MUST_CHECK enum rc image_dicom_ids(const struct image_source *src, struct image_dicom_ids *ret_ids,
                                   struct err *reterr);

/* ---- pixels ---- */

struct image_limits {
    uint64_t memory_bytes_max; /* all that one open image may take at once */
    uint64_t pixels_max;       /* of formats that decode from the top (JPEG, PNG, a DICOM frame) */
};
/* 512 MiB; 400 Mpx: 20,000 squared, about 2 s of decoding, more than any camera or scanner makes
 * outside the tiled formats, which this does not limit. */
#define IMAGE_LIMITS_DEFAULT                                                                       \
    ((struct image_limits){.memory_bytes_max = 512u << 20, .pixels_max = 400000000u})

#define IMAGE_LEVELS_MAX 64
struct image_level {
    uint64_t width, height;           /* pixels */
    uint32_t tile_width, tile_height; /* a good rectangle to ask for, row by row */
};
struct image_info {
    const char *media_type; /* static text */
    const char *kind;       /* as image.kind */
    uint32_t channel_n;     /* 1 grey, 3 colour: what the pixels really are */
    uint32_t level_n;       /* 0 is the largest; more only in pyramids */
    uint32_t frame_n;       /* frames, pages, slices: same size, level 0 */
    uint32_t associated_n;  /* label, macro and thumbnail images of a slide: counted, never read */
    struct image_level level[IMAGE_LEVELS_MAX];
};

enum image_format { IMAGE_GREY8 = 1, IMAGE_RGB8 = 3 }; /* the value is bytes per pixel */

struct image;

/* Open by content. src is copied, what its ctx points to is borrowed until image_close. media_type
 * may be NULL; a hint decides only where the content does not. Reads headers only. */
MUST_CHECK enum rc image_open(const struct image_source *src, const char *media_type,
                              const struct image_limits *limits, struct image **ret_img,
                              struct err *reterr);
void image_close(struct image *img); /* NULL is fine */
const struct image_info *image_info(const struct image *img);

struct image_rect {
    uint64_t x, y;          /* pixels of the level, from the top left */
    uint32_t width, height; /* at least 1; inside the level */
};
/* Decode one rectangle into out: height rows of width * format bytes, without gaps. Sixteen-bit
 * samples are scaled to 8 bits; DICOM greys by the frame's first window, else from its least to its
 * greatest value; MONOCHROME1 is inverted, palettes are applied; grey from colour is Rec. 601 luma.
 * Cheap in order: tiles row by row, frames in order; going back in a JPEG or PNG that is larger
 * than a cache of a quarter of the memory limit decodes again from the top.
 * After an error out is undefined and the image may still be asked for other rectangles. */
MUST_CHECK enum rc image_read(struct image *img, uint32_t level_idx, uint32_t frame_idx,
                              struct image_rect rect, enum image_format format, uint8_t *out,
                              struct err *reterr);

/* ---- a slice of a DICOM series ---- */

struct image_slice { /* what its header says of where it lies */
    char series[65]; /* SeriesInstanceUID; "" when absent */
    uint32_t width, height, channel_n;
    bool has_position, has_orientation, has_spacing, has_number;
    double position[3];    /* ImagePositionPatient, mm */
    double orientation[6]; /* ImageOrientationPatient */
    double spacing[2];     /* PixelSpacing: rows, columns, mm */
    int64_t number;        /* InstanceNumber */
};
/* RC_UNIMPL: not DICOM, or of several frames. */
MUST_CHECK enum rc image_slice_get(struct image *img, struct image_slice *ret, struct err *reterr);

/* Which values of a DICOM grey image are black and white, after RescaleSlope and Intercept, as
 * WindowCenter and WindowWidth; width >= 1. */
struct image_window {
    double center, width;
};
enum image_window_from {
    IMAGE_WINDOW_NONE,  /* no grey DICOM, or 8 bits as they are */
    IMAGE_WINDOW_OWN,   /* its first window: *ret */
    IMAGE_WINDOW_FRAME, /* each frame's least and greatest value */
};
enum image_window_from image_window_get(const struct image *img, struct image_window *ret);
/* From now on; nothing where the image is no grey DICOM. */
void image_window_set(struct image *img, const struct image_window *w);
/* Least and greatest value of a frame, as a window. Only where image_window_get says FRAME. RC_*
 * as image_read. */
MUST_CHECK enum rc image_window_frame(struct image *img, uint32_t frame_idx,
                                      struct image_window *ret, struct err *reterr);
