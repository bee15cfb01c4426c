# Ophthalmology: DICOM (OP, OPT), photographs, Heidelberg's raw volumes. A photograph exported from a
# viewer usually shows the patient's line, so a person looks.
name = ophthalmology
version = 2
formats = dicom image vol
dates = shift
patient = keep
structured-content = clean
pixels.plain-image = quarantine
pixels.no-statement = quarantine
pixels.text = all
