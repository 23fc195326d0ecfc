"""The parts that published merge methods are made of, by kind, as small pure functions on flat float32 tensors.

`sparsify` (trim by magnitude, Bernoulli masks), `rescale`, `weights`, `elect` (signs), `aggregate` (sums, means,
slerp), `measure` (order-independent reductions over a tensor that is read in blocks).

Every floating-point result is a chain of single IEEE operations per entry, each rounded on its own: no fused
multiply-add, no library sum over float32. So the bytes do not depend on block size, vector width, threads or device.

`spectral` (singular values, polar factors), `solve` (least squares over Gram matrices) and what builds on them work on
whole matrices by matrix products and LAPACK, on one thread and mostly in float64: their bytes are the same in every run
and whatever tensors are merged beside, but another processor or library may round differently.
"""
