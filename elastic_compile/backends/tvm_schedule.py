from tvm import relax


def pipeline(target):
    return relax.backend.cpu_generic.get_default_pipeline(target)
