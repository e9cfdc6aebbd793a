use super::*;

#[test]
fn what_is_decided_on_the_way_round_says_so() {
    let text = "duration = \"1s\"\n[target.t]\ninterface = \"e0\"\n[target.same]\ninterface = \"e0\"\n[target.other]\ninterface = \"e1\"\n\
         [[fault]]\ntarget = \"t\"\nkind = \"network.delay\"\ndelay = \"1ms\"\ndirection = \"ingress\"\n\
         [[fault]]\ntarget = \"same\"\nkind = \"network.loss\"\ndirection = \"both\"\n\
         [[fault]]\ntarget = \"other\"\nkind = \"network.loss\"\ndirection = \"ingress\"\n";
    let source = crate::scenario::Source::text("t.toml", text.to_owned());
    let scenario = crate::scenario::load(&source, &crate::scenario::Overrides::default()).unwrap();
    let planned = faults(&scenario, 1, &|_| TargetKind::Device);
    let mechanisms: Vec<String> = planned.iter().map(|fault| fault.mechanism(Rung::Tcx, None)).collect();
    assert_eq!(
        mechanisms,
        [
            "ifb egress (redirected ingress) + fq",
            "tc egress (tcx) + ifb egress (redirected ingress)",
            "tc ingress (tcx)"
        ]
    );
}
