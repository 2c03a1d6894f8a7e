from probe_lab.report.build import build_report as build_report
from probe_lab.report.layout.material import Drawing as Drawing
from probe_lab.report.layout.material import Material as Material
from probe_lab.report.layout.material import Section as Section
from probe_lab.report.layout.table_forms import Table as Table
