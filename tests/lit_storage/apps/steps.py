"""An App whose Flow does what a test says."""

from lit_storage import App, Flow


def run_steps(steps, *works, **options):
    """Run an App whose Flow calls `steps` with the Works; return what it returned."""

    class Steps(Flow):
        def __init__(self):
            super().__init__()
            self.works = works

        def run(self):
            self.outcome = steps(*works)

    flow = Steps()
    App(flow, **options).run()
    return flow.outcome
