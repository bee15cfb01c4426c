/* common/image/dicom_codec.cc - dcmtk's decoders behind a C function: a data set with one frame is
 * made in memory and asked for its uncompressed representation. Every exception ends here. */
#include "dcmtk/config/osconfig.h"
#include "dcmtk/dcmdata/dctk.h"
#include "dcmtk/dcmdata/dcpixseq.h"
#include "dcmtk/dcmdata/dcpxitem.h"
#include "dcmtk/dcmjpeg/djdecode.h"
#include "dcmtk/dcmjpls/djdecode.h"
#include "dcmtk/oflog/oflog.h"
extern "C" { // base is C
#include "common/base/rc.h"
}
#include "common/image/dicom_codec.h"
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace
{
std::once_flag init_once;

void init()
{
    OFLog::configure(OFLogger::OFF_LOG_LEVEL);
    (void)dcmDataDict.isDictionaryLoaded(); /* loads it */
    DJDecoderRegistration::registerCodecs(EDC_photometricInterpretation);
    DJLSDecoderRegistration::registerCodecs();
}

enum rc decode(const struct dicom_frame_desc &d, const uint8_t *p, size_t n, uint8_t *out,
               size_t out_n, struct dicom_frame_out *ret, struct err *reterr)
{
    DcmDataset ds;
    DcmXfer xfer(d.syntax);
    E_TransferSyntax ts = xfer.getXfer();
    std::vector<uint8_t> even(p, p + n);

    if (even.size() % 2 != 0) even.push_back(0);
    (void)ds.putAndInsertUint16(DCM_SamplesPerPixel, (Uint16)d.samples);
    (void)ds.putAndInsertString(DCM_PhotometricInterpretation, d.photometric);
    if (d.samples > 1) (void)ds.putAndInsertUint16(DCM_PlanarConfiguration, (Uint16)d.planar);
    (void)ds.putAndInsertUint16(DCM_Rows, (Uint16)d.rows);
    (void)ds.putAndInsertUint16(DCM_Columns, (Uint16)d.columns);
    (void)ds.putAndInsertUint16(DCM_BitsAllocated, (Uint16)d.bits_allocated);
    (void)ds.putAndInsertUint16(DCM_BitsStored, (Uint16)d.bits_stored);
    (void)ds.putAndInsertUint16(DCM_HighBit, (Uint16)d.high_bit);
    (void)ds.putAndInsertUint16(DCM_PixelRepresentation, (Uint16)d.pixel_rep);

    /* each takes what is inserted into it, when that succeeds */
    std::unique_ptr<DcmPixelSequence> seq(new DcmPixelSequence(DCM_PixelSequenceTag));
    std::unique_ptr<DcmPixelItem> table(new DcmPixelItem(DCM_PixelItemTag));
    if (seq->insert(table.get()).bad()) return err_set(reterr, RC_NOMEM, "dcmtk: fragment");
    table.release();
    std::unique_ptr<DcmPixelItem> item(new DcmPixelItem(DCM_PixelItemTag));
    if (item->putUint8Array(even.data(), (unsigned long)even.size()).bad() ||
        seq->insert(item.get()).bad()) {
        return err_set(reterr, RC_NOMEM, "dcmtk: fragment");
    }
    item.release();
    std::unique_ptr<DcmPixelData> px(new DcmPixelData(DCM_PixelData));
    px->putOriginalRepresentation(ts, NULL, seq.release());
    if (ds.insert(px.get()).bad()) return err_set(reterr, RC_NOMEM, "dcmtk: pixel data");
    DcmPixelData *data = px.release();

    OFCondition cond = ds.chooseRepresentation(EXS_LittleEndianExplicit, NULL);
    if (cond.bad()) {
        return err_set(reterr, RC_CORRUPT, "transfer syntax %s: %.200s", d.syntax, cond.text());
    }
    Uint16 v16 = 0;
    OFString text;
    ret->bits_allocated = ds.findAndGetUint16(DCM_BitsAllocated, v16).good() ? v16 : 0;
    ret->bits_stored = ds.findAndGetUint16(DCM_BitsStored, v16).good() ? v16 : 0;
    ret->high_bit = ds.findAndGetUint16(DCM_HighBit, v16).good() ? v16 : 0;
    ret->planar = ds.findAndGetUint16(DCM_PlanarConfiguration, v16).good() ? v16 : 0;
    (void)ds.findAndGetOFString(DCM_PhotometricInterpretation, text);
    (void)snprintf(ret->photometric, sizeof(ret->photometric), "%s", text.c_str());
    if (ret->bits_allocated == 8 && d.bits_allocated == 8) {
        Uint8 *q = NULL;
        if (data->getUint8Array(q).good() && q != NULL && data->getLength() >= out_n) {
            std::memcpy(out, q, out_n);
            return RC_OK;
        }
    } else if (ret->bits_allocated == 16 && d.bits_allocated == 16) {
        Uint16 *q = NULL;
        if (data->getUint16Array(q).good() && q != NULL && data->getLength() >= out_n) {
            for (size_t i = 0; i < out_n / 2; i++) {
                out[2 * i] = (uint8_t)q[i];
                out[2 * i + 1] = (uint8_t)(q[i] >> 8);
            }
            return RC_OK;
        }
    }
    return err_set(reterr, RC_CORRUPT, "transfer syntax %s: the frame is shorter than its header",
                   d.syntax);
}
} // namespace

extern "C" void dicom_codec_init(void)
{
    std::call_once(init_once, init);
}

extern "C" enum rc dicom_codec_decode(const struct dicom_frame_desc *d, const uint8_t *p, size_t n,
                                      uint8_t *out, size_t out_n, struct dicom_frame_out *ret_out,
                                      struct err *reterr)
{
    try {
        dicom_codec_init();
        return decode(*d, p, n, out, out_n, ret_out, reterr);
    } catch (const std::bad_alloc &) {
        return err_set(reterr, RC_NOMEM, "transfer syntax %s", d->syntax);
    } catch (...) {
        return err_set(reterr, RC_CORRUPT, "transfer syntax %s: the decoder gave up", d->syntax);
    }
}
