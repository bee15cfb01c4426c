# Where no society's profile was chosen: everything the others accept, nothing they keep.
name = default
version = 1
formats = dicom slide image vol
structured-content = clean
patient = keep
pixels.no-statement = accept
