# Where no society's profile was chosen: everything the others accept, nothing they keep.
name = default
version = 2
formats = dicom slide image vol
structured-content = clean
patient = keep
pixels.no-statement = accept
pixels.text = all
