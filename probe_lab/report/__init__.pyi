from probe_lab.report.build import build_report as build_report
