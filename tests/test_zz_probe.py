import sys; sys.path.insert(0,"/tmp/probe"); import t
from served import Served
def test_x(served):
    served.ticket()
