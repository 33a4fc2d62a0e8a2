"""zygote"""
