# Endoscopy: still pictures (JPEG, PNG, DICOM VL), which show the processor's overlay more often than
# not, so a person looks at each; videos are not accepted.
name = endoscopy
version = 2
formats = dicom image
dates = shift
patient = keep
structured-content = clean
pixels.plain-image = quarantine
pixels.no-statement = quarantine
pixels.text = all
video = refuse
