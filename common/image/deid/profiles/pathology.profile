# Pathology: whole slides (SVS, NDPI, generic and OME-TIFF, DICOM) without label, macro and thumbnail;
# field photographs are looked at by a person. The scanner's identity goes.
name = pathology
version = 2
formats = dicom slide image
dates = remove
patient = keep
structured-content = clean
pixels.plain-image = quarantine
pixels.no-statement = quarantine
pixels.text = doubtful
