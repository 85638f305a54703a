// Money is held on a card, and a part of it captured.
"use strict";

const { newOrder, payByCard, submit, tell } = require("./shop.js");

tell(async (cashfree) => {
  const order = await newOrder(cashfree, { order_tags: { cfflow_preauth: "true" } });
  const paid = await payByCard(cashfree, order);
  await submit(cashfree, paid, "111000");
  const held = (await cashfree.PGOrderFetchPayment(order.order_id, paid.cf_payment_id)).data;
  const capture = { action: "CAPTURE", amount: 120.25 };
  const captured = (await cashfree.PGAuthorizeOrder(order.order_id, capture)).data;
  const payments = (await cashfree.PGOrderFetchPayments(order.order_id)).data;
  return { held, captured, payments };
});
