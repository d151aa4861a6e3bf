"""The native kernels: sources in C++17, their build, and the binding by ctypes. numpy only, never torch."""
