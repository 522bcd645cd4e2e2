"""The demo: three legacy systems, real data, live days at speed, and an account at the end."""
