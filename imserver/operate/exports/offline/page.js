if(/^zh/.test(navigator.language))document.documentElement.lang="zh";
if(self!==top)document.documentElement.classList.add("framed");
addEventListener("DOMContentLoaded",()=>{
for(const each of document.querySelectorAll("time"))each.textContent=new Date(each.dateTime).toLocaleString();
if(matchMedia("(max-width:700px)").matches)for(const each of document.querySelectorAll("a[target=view]"))each.target="_self";});
