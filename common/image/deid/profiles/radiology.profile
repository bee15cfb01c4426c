# Radiology: DICOM only. Original slices of CT, MR and PET need no statement about burned-in text;
# everything else does. Dates are shifted by days that differ from patient to patient. Private values
# that quantities depend on stay (PS3.15 Table E.3.10-1).
name = radiology
version = 2
formats = dicom
dates = shift
patient = keep
structured-content = clean
pixels.plain-image = quarantine
pixels.no-statement = accept
pixels.text = doubtful
private = 0019,xx0C SIEMENS MR HEADER
private = 0019,xx0E SIEMENS MR HEADER
private = 0043,xx39 GEMS_PARM_01
private = 2001,xx03 Philips Imaging DD 001
private = 2005,xx0D Philips MR Imaging DD 001
private = 2005,xx0E Philips MR Imaging DD 001
private = 7053,xx00 Philips PET Private Group
private = 7053,xx09 Philips PET Private Group
