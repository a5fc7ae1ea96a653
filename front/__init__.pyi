from trimtab.tasks.load import load as load
